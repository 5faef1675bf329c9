"""What an answer must look like: grammars, and the JSON schemas they are made from."""
