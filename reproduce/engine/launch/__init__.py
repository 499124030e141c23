"""Who does the runs, where, and how long they take: here or on a cluster, each in a process of its own."""
