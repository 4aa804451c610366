"""Says what a template lets functions do in S3, and fails unless that is as little as they need.

deploy_rights.py TEMPLATE [--may-delete]: one statement, for reading and writing objects beneath one prefix. Who may delete
may also list what is there, in a second one: nothing is deleted before all names have said what they need.
"""
import json
import sys

from cfnlint.decode import decode

ALLOWED = {"s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"}


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


def check_list(statement, objects):
    """That what may be listed is what `objects` are, and no more."""
    assert statement["Effect"] == "Allow" and words(statement["Action"]) == ["s3:ListBucket"], statement
    assert set(statement["Condition"]) == {"StringLike"}, statement
    condition = statement["Condition"]["StringLike"]
    assert set(condition) == {"s3:prefix"}, condition
    prefixes = [text(prefix) for prefix in words(condition["s3:prefix"])]
    assert prefixes == [name.partition("/")[2] for name in objects], f"{prefixes} of {objects}"
    for bucket in words(statement["Resource"]):
        assert "/" not in text(bucket) and "*" not in text(bucket), f"too much: {bucket}"
    print(f"s3:ListBucket of {', '.join(prefixes)}")


def main(path, may_delete):
    template, problems = decode(path)
    assert not problems, problems
    resources = template["Resources"]
    functions = [name for name, it in resources.items() if it["Type"].endswith("::Function")]
    assert functions, "no function"
    found = list(statements(resources))
    lists = [statement for statement in found if "s3:ListBucket" in words(statement["Action"])]
    found = [statement for statement in found if statement not in lists]
    assert len(found) == 1 and len(lists) == int(may_delete), f"{len(found)} and {len(lists)} statements: {found + lists}"
    [statement] = found
    allowed = ALLOWED | {"s3:DeleteObject"} if may_delete else ALLOWED
    assert statement["Effect"] == "Allow", statement
    assert set(words(statement["Action"])) == allowed, statement["Action"]
    names = [text(resource) for resource in words(statement["Resource"])]
    for name in names:
        bucket, _, objects = name.partition("/")
        prefix = objects.removesuffix("/*")
        assert objects.endswith("/*") and prefix and "*" not in prefix and "*" not in bucket, f"too much: {name}"
        print(f"{path}: {', '.join(sorted(allowed))} on {name}")
    for statement in lists:
        check_list(statement, names)
    for name in functions:
        properties = resources[name]["Properties"]
        variables = properties["Environment"]["Variables"]
        assert variables["AWS_LAMBDA_EXEC_WRAPPER"] == "/opt/icecache", variables
        never = variables.get("ICECACHE_DELETE_AFTER") == "never"
        assert never != may_delete, "who may delete is told not to" if may_delete else "who may not delete must not try"
        assert properties["Layers"], "no layer"


main(sys.argv[1], "--may-delete" in sys.argv[2:])
