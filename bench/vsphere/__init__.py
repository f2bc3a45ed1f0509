"""Reading from a simulated vSphere beside curl and a plain decoder."""
