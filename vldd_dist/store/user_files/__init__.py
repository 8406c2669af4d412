"""Reading files of users, local or at a URL: in ranges, and each request repeated by itself after a fault; and whether an error
of reading is about the file, or about the network or the machine."""
