"""From numbers to verdicts: tables, statistics, claims and their rules. It imports no other room."""
