"""One module for each layout of data; which is here, what is wrong with it."""
