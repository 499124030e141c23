"""The paper's figures as scripts, the experiments they share, and the engine that runs them."""
