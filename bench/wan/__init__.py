"""The same comparison over an emulated long path: 50 ms round trip, 1 Gbit/s, with and without loss."""
