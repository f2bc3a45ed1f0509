"""Block access shared by providers: raw files, qemu-nbd exports, staged volumes."""
