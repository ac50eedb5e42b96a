"""Random minibatches from stores of any size."""
