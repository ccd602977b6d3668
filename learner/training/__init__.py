"""The learner's processes: ranks, optimizer steps, checkpoints, published weights, and the loop around them."""
