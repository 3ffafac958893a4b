"""The fleet's own certificate authority, with which balancers and workers authenticate each other.

authority  makes keys and certificates; pure but for the random keys
folder     the files of an authority: certificates, keys and the token for joining
__main__   `vllama certs init | issue | rotate`
"""
