"""The commands of ``vfl``, a file for each or for a few that belong together; ``vfl.cli`` runs them."""
