"""The objective: stages as pure functions of tensors, composed by configuration. Imports no model, rank or broker."""
