"""How fast, and at what cost, our agents copy disks, beside the best copy tools. Read README.md first."""
