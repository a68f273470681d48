//! One operating-system process: started, watched, ended.
