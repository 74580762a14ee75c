// Holds KEDA's and the Prometheus operator's resources against their published schemas, as the packages carry them.
// Arguments: the folder with node_modules. Standard input: a JSON list of resources. Standard output: a JSON list of
// what is wrong.
import { existsSync, readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const where = {
  "keda.sh/v1alpha1": "@kubernetes-models/keda/keda.sh/v1alpha1",
  "monitoring.coreos.com/v1": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1",
};
const problems = [];
for (const resource of JSON.parse(readFileSync(0, "utf8"))) {
  const path = `${process.argv[2]}/node_modules/${where[resource.apiVersion]}/${resource.kind}`;
  const { [resource.kind]: model } = await import(pathToFileURL(path + (existsSync(`${path}.mjs`) ? ".mjs" : ".js")));
  try {
    new model(resource).validate();
  } catch (error) {
    problems.push(`${resource.kind} ${resource.metadata.name}: ${error.message}`);
  }
}
console.log(JSON.stringify(problems));
