"""Says what a template lets functions do in S3, and fails unless that is as little as they need.

deploy_rights.py TEMPLATE: one statement, for reading and writing objects beneath one prefix.
"""
import json
import sys

from cfnlint.decode import decode

ALLOWED = {"s3:GetObject", "s3:PutObject"}


def statements(node):
    """Every statement of a policy that is anywhere in a template, but those of who may take on a role."""
    if isinstance(node, dict):
        if "Statement" in node:
            found = node["Statement"]
            yield from found if isinstance(found, list) else [found]
        for key, value in node.items():
            if key not in ("Statement", "AssumeRolePolicyDocument"):
                yield from statements(value)
    elif isinstance(node, list):
        for value in node:
            yield from statements(value)


def words(value):
    return value if isinstance(value, list) else [value]


def text(resource):
    """The text parts of a resource's name in one, with what is filled in as {}."""
    if isinstance(resource, str):
        return resource
    if "Fn::Sub" in resource:
        return resource["Fn::Sub"]
    if "Fn::Join" in resource:
        glue, parts = resource["Fn::Join"]
        return glue.join(part if isinstance(part, str) else "{}" for part in parts)
    return json.dumps(resource)


def main(path):
    template, problems = decode(path)
    assert not problems, problems
    resources = template["Resources"]
    functions = [name for name, it in resources.items() if it["Type"].endswith("::Function")]
    assert functions, "no function"
    found = list(statements(resources))
    assert len(found) == 1, f"{len(found)} statements: {found}"
    [statement] = found
    assert statement["Effect"] == "Allow", statement
    assert set(words(statement["Action"])) == ALLOWED, statement["Action"]
    for resource in words(statement["Resource"]):
        name = text(resource)
        bucket, _, objects = name.partition("/")
        prefix = objects.removesuffix("/*")
        assert objects.endswith("/*") and prefix and "*" not in prefix and "*" not in bucket, f"too much: {name}"
        print(f"{path}: {', '.join(sorted(ALLOWED))} on {name}")
    for name in functions:
        properties = resources[name]["Properties"]
        variables = properties["Environment"]["Variables"]
        assert variables["AWS_LAMBDA_EXEC_WRAPPER"] == "/opt/icecache", variables
        assert variables["ICECACHE_DELETE_AFTER"] == "never", "who may not delete must not try"
        assert properties["Layers"], "no layer"


main(sys.argv[1])
