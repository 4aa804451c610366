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
    condition     = toset(data.aws_iam_policy_document.this.statement[0].actions) == toset(["s3:GetObject", "s3:PutObject"])
    error_message = "other rights than to read and write objects"
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
    condition     = toset(data.aws_iam_policy_document.this.statement[0].actions) == toset(["s3:GetObject", "s3:PutObject", "s3:DeleteObject"])
    error_message = "other rights than to read, write and delete objects"
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
