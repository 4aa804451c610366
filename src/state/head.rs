//! HEAD: the one small object that says which layers make up the newest version.
