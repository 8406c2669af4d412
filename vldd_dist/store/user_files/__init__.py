"""Opening files of users, local or at a URL: to be read in ranges, and each request repeated by itself after a fault."""
