"""What every stage reads: members of archives, pictures, and the table of samples."""
