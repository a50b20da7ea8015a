"""The virtual machine against what a real Lotus answered. Needs the extension: `make execution`."""
