"""The block protocol without I/O: what to send, what to accept, what is durable. See docs/design/transfer-v2.md."""
