"""Plain functions and layers on arrays and tensors: features, masks, lengths, the types of a batch."""
