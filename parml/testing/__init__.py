"""What tests of estimators and of collections share, here and in packages that build on parml."""
