"""ProxyCLIP against vectors computed by the released code."""
