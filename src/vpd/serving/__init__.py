"""Models behind HTTP: a bounded queue, a service with typed answers, and a page for people on top of it."""
