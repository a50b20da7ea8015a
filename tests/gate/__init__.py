"""The gate: permissions, tokens, tenants, and the methods of lotus-gateway."""
