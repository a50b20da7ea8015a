"""HAProxy and nginx configuration, agent checks, the fleet registry. Imports: `blockstore`."""
