"""Run definitions that figures share."""
