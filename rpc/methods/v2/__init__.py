"""Methods of `/rpc/v2`: tipsets and actors by selector."""
