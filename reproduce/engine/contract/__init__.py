"""What the figure's process and a run's process tell one another: specs, jobs, folders. Neither room imports torch."""
