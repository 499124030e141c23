"""From verdicts to files: pictures, tables, claims, the report and the gallery."""
