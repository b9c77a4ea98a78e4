"""Files that a job left behind: fetched, checked and put in their places."""
