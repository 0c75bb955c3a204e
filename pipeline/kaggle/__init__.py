"""The site: an account, guarded transfers, and a submission sent once."""
