"""What a serving process does of itself when a head comes: it reads ahead for the requests that will ask."""
