# terraform test: needs no account.

mock_provider "aws" {
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{}" }
  }
}

variables {
  layer_zip = "main.tf" # any file
  bucket    = "bucket"
  prefix    = "some/prefix"
}

run "rights_for_one_prefix" {
  command = plan

  assert {
    condition     = length(data.aws_iam_policy_document.this.statement) == 1
    error_message = "more than one statement"
  }
  assert {
    condition     = toset(data.aws_iam_policy_document.this.statement[0].actions) == toset(["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"])
    error_message = "other rights than to read and write objects, and to give an upload up"
  }
  assert {
    condition     = toset(data.aws_iam_policy_document.this.statement[0].resources) == toset(["arn:aws:s3:::bucket/some/prefix/*"])
    error_message = "rights for other objects"
  }
  assert {
    condition     = output.environment["ICECACHE_DELETE_AFTER"] == "never"
    error_message = "who may not delete must not try"
  }
}

run "rights_to_delete" {
  command = plan

  variables {
    may_delete = true
  }
  assert {
    condition     = toset(data.aws_iam_policy_document.this.statement[0].actions) == toset(["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload", "s3:DeleteObject"])
    error_message = "other rights than to read, write and delete objects"
  }
  # Nothing is deleted before all names have said what they need, and S3 names them by a list alone.
  assert {
    condition     = length(data.aws_iam_policy_document.this.statement) == 2
    error_message = "other statements than for objects and for their list"
  }
  assert {
    condition     = toset(data.aws_iam_policy_document.this.statement[1].actions) == toset(["s3:ListBucket"]) && toset(data.aws_iam_policy_document.this.statement[1].resources) == toset(["arn:aws:s3:::bucket"])
    error_message = "who may delete may not list"
  }
  assert {
    condition     = one(data.aws_iam_policy_document.this.statement[1].condition).test == "StringLike" && one(data.aws_iam_policy_document.this.statement[1].condition).variable == "s3:prefix" && toset(one(data.aws_iam_policy_document.this.statement[1].condition).values) == toset(["some/prefix/*"])
    error_message = "a list of other objects"
  }
  assert {
    condition     = !contains(keys(output.environment), "ICECACHE_DELETE_AFTER")
    error_message = "who may delete is told not to"
  }
}

run "a_prefix_is_needed" {
  command = plan

  variables {
    prefix = ""
  }
  expect_failures = [var.prefix]
}

# It would be another one in the policy than in the program, which leaves such slashes out; or one for more.
run "a_prefix_has_no_slash_at_its_start" {
  command = plan

  variables {
    prefix = "/x"
  }
  expect_failures = [var.prefix]
}

run "a_prefix_has_no_empty_name" {
  command = plan

  variables {
    prefix = "x//y"
  }
  expect_failures = [var.prefix]
}

run "a_prefix_has_no_wildcard" {
  command = plan

  variables {
    prefix = "x*"
  }
  expect_failures = [var.prefix]
}

run "rights_for_a_key" {
  command = plan

  variables {
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/k"
  }
  assert {
    condition     = length(data.aws_iam_policy_document.this.statement) == 2
    error_message = "other statements than for objects and for the key"
  }
  assert {
    condition     = toset(data.aws_iam_policy_document.this.statement[1].actions) == toset(["kms:Decrypt", "kms:GenerateDataKey"]) && toset(data.aws_iam_policy_document.this.statement[1].resources) == toset(["arn:aws:kms:eu-west-1:123456789012:key/k"])
    error_message = "other rights than to use the key"
  }
}
