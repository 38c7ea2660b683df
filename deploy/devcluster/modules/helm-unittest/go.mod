// helm-unittest replaces a module that it depends on, which go install PACKAGE@VERSION refuses; here the replacement is repeated.
module semievol.dev/devcluster/helm-unittest

go 1.26.0

tool github.com/helm-unittest/helm-unittest/cmd/helm-unittest

require github.com/helm-unittest/helm-unittest v1.1.2

replace github.com/vmware-labs/yaml-jsonpath v0.3.2 => github.com/helm-unittest/yaml-jsonpath v0.4.0
