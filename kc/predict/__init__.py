"""One image at a time: a stored memory or method opened again, asked, taught and made to forget."""
