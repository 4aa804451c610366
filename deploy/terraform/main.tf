# The layer, and the policy that a function with it needs. Attach both to the function; see example/.

data "aws_partition" "current" {}

locals {
  bucket  = "arn:${data.aws_partition.current.partition}:s3:::${var.bucket}"
  objects = "${local.bucket}/${var.prefix}/*"
}

resource "aws_lambda_layer_version" "this" {
  layer_name               = var.name
  description              = "Keeps a directory of a function in S3"
  filename                 = var.layer_zip
  source_code_hash         = filebase64sha256(var.layer_zip)
  compatible_architectures = [var.architecture]
  license_info             = "Apache-2.0"
  skip_destroy             = true
}

data "aws_iam_policy_document" "this" {
  statement {
    sid       = "State"
    actions   = concat(["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"], var.may_delete ? ["s3:DeleteObject"] : [])
    resources = [local.objects]
  }

  # Before anything is deleted every name is asked whether it needs that.
  dynamic "statement" {
    for_each = var.may_delete ? [local.bucket] : []

    content {
      sid       = "Names"
      actions   = ["s3:ListBucket"]
      resources = [statement.value]

      condition {
        test     = "StringLike"
        variable = "s3:prefix"
        values   = ["${var.prefix}/*"]
      }
    }
  }

  dynamic "statement" {
    for_each = var.kms_key_arn == null ? [] : [var.kms_key_arn]

    content {
      sid       = "Key"
      actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
      resources = [statement.value]
    }
  }
}

resource "aws_iam_policy" "this" {
  name_prefix = "${var.name}-"
  description = "What icecache needs of ${var.bucket}/${var.prefix}"
  policy      = data.aws_iam_policy_document.this.json
}
