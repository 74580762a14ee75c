"""Holds resources against published schemas; runs in the Python of `tools.tool_python`.

Standard input: YAML of resources. Kubernetes's own kinds are held against the strict schemas of the versions given as
arguments, Strimzi's against the vendored ones, in which nothing else may stand. With --to-json it only tells them so.
Of kinds that it does not know it prints the names, as JSON. What is wrong goes to standard error.
"""

import json
import sys
from pathlib import Path

SCHEMAS = Path(__file__).resolve().parent / "schemas"
STRIMZI = {"KafkaTopic": "kafkatopic.json", "KafkaUser": "kafkauser.json"}


def main() -> None:
    import jsonschema  # these are not in the project's own environment, where pytest looks for doctests here
    import kubernetes_validate
    import yaml

    resources = [each for each in yaml.safe_load_all(sys.stdin) if each]
    if sys.argv[1:] == ["--to-json"]:
        print(json.dumps(resources))
        return
    problems, left = [], []
    for each in resources:
        name = f"{each['kind']} {each['metadata']['name']}"
        if each["kind"] in STRIMZI:
            schema = strict(json.loads((SCHEMAS / STRIMZI[each["kind"]]).read_text()), is_top=True)
            problems += [f"{name}: {error.message}" for error in jsonschema.Draft7Validator(schema).iter_errors(each)]
        elif "." in each["apiVersion"].partition("/")[0] and not each["apiVersion"].partition("/")[0].endswith(
            "k8s.io"
        ):
            left.append(name)
        else:
            for version in sys.argv[1:]:
                try:
                    kubernetes_validate.validate(each, version, strict=True)
                except kubernetes_validate.ValidationError as error:
                    problems.append(f"{name}, Kubernetes {version}: {error.message}")
    print(json.dumps(left))
    sys.exit("\n".join(problems) or 0)


def strict(schema, is_top=False):
    """The schema with no field allowed that it does not name."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: strict(value) for key, value in schema.items()}
    if is_top:
        found["properties"] = {"apiVersion": {}, "kind": {}, "metadata": {}} | found["properties"]
    if isinstance(found.get("properties"), dict) and "x-kubernetes-preserve-unknown-fields" not in found:
        found.setdefault("additionalProperties", False)
    return found


if __name__ == "__main__":
    main()
