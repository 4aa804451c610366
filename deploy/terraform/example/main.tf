# A function that keeps what is in its /tmp. Its own code is in a zip of yours.

terraform {
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

variable "layer_zip" {
  description = "The layer as scripts/package-layer writes it."
  type        = string
}

variable "function_zip" {
  description = "The function's code; its handler is index.handler."
  type        = string
}

variable "bucket" {
  description = "Name of the bucket that has the state."
  type        = string
}

module "icecache" {
  source = "../"

  layer_zip = var.layer_zip
  bucket    = var.bucket
  prefix    = "functions"
}

data "aws_iam_policy_document" "assume" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["lambda.amazonaws.com"]
    }
  }
}

data "aws_partition" "current" {}

resource "aws_iam_role" "counter" {
  name_prefix        = "counter-"
  assume_role_policy = data.aws_iam_policy_document.assume.json
}

resource "aws_iam_role_policy_attachment" "state" {
  role       = aws_iam_role.counter.name
  policy_arn = module.icecache.policy_arn
}

resource "aws_iam_role_policy_attachment" "log" {
  role       = aws_iam_role.counter.name
  policy_arn = "arn:${data.aws_partition.current.partition}:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole"
}

resource "aws_lambda_function" "counter" {
  function_name    = "counter"
  role             = aws_iam_role.counter.arn
  runtime          = "python3.13"
  handler          = "index.handler"
  architectures    = ["arm64"]
  filename         = var.function_zip
  source_code_hash = filebase64sha256(var.function_zip)
  layers           = [module.icecache.layer_arn]
  timeout          = 30
  memory_size      = 512

  # Two instances do not count with one SQLite file.
  reserved_concurrent_executions = 1

  ephemeral_storage {
    size = 1024
  }

  environment {
    variables = module.icecache.environment
  }
}
