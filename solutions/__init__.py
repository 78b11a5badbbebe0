"""The reference, one module per lesson. `make stubs` derives labs/ from it; nothing else imports it by this name."""
