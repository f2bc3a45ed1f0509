"""The stateless REST gateway: HTTP on one side, the leading coordinator's gRPC on the other."""
