"""Intake: from published groups to the next batch, with the ledger of trained groups and the plan of the work."""
