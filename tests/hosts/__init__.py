"""Training over two hosts, which are network namespaces of this machine."""
