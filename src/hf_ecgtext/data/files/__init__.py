"""Where the files of a download are: a folder, an archive, or an address."""
