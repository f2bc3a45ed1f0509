module coriolis.test/vcsim

go 1.24.0

// v0.53.0 and later write empty enums that pyvmomi cannot parse
require github.com/vmware/govmomi v0.52.0

require github.com/google/uuid v1.6.0 // indirect
