"""Archives of other people, unpacked safely: zip, tar, and zip files that were split into parts."""
