"""Who takes part and how they talk: roles, typed messages, networks, sealing, ledger, CSV files, policies."""
