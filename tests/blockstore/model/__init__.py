"""A delayed, forgetful store by the rules of three servers, under the real bridge and followers."""
