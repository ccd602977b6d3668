"""What is optimised: stages as pure functions of tensors, composed by configuration. Knows no model, rank or broker."""
