"""From published groups to the batch that is trained: what was trained, what comes next, who computes which part."""
