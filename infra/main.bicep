// The functions app and what it needs, beside a storage account that is there already. Plain resources: nothing is fetched from a
// module registry. Deployed by `azd up`; see infra/README.md.
targetScope = 'subscription'

@description('Name of the azd environment; part of every name.')
@minLength(1)
@maxLength(32)
param environmentName string

@description('Region of everything but the Event Grid topic, which is where the data account is.')
param location string

@description('The storage account whose container is one side of the pair.')
param dataAccountName string
param dataAccountResourceGroup string
@description('The container. Only its events are delivered.')
param dataContainer string

@secure()
param vastAccessKey string
@secure()
param vastSecretKey string

@description('Subnet delegated to Microsoft.App/environments through which VAST is reached; empty: no network integration.')
param subnetId string = ''

@description('Who is told of alerts; empty: nobody yet.')
param alertEmail string = ''

@description('Who operates the pair with the `fedplane` command (object id in Entra ID); empty: nobody but the app gets at its state.')
param operatorPrincipalId string = ''
@allowed(['User', 'ServicePrincipal'])
param operatorPrincipalType string = 'User'

@description('Container made on the data account for events that could not be delivered. Not the synchronised one.')
param deadLetterContainer string = 'fedplane-dead-letters'

@allowed(['3.11', '3.12'])
param pythonVersion string = '3.12'
@allowed([2048, 4096])
param instanceMemoryMB int = 2048
param maximumInstanceCount int = 40
param redisSku string = 'Balanced_B1'

var token = toLower(uniqueString(subscription().id, environmentName, location))
var tags = { 'azd-env-name': environmentName }

resource group 'Microsoft.Resources/resourceGroups@2024-03-01' = {
  name: 'rg-${environmentName}'
  location: location
  tags: tags
}

module monitoring 'modules/monitoring.bicep' = {
  name: 'monitoring'
  scope: group
  params: {
    token: token
    location: location
    tags: tags
    alertEmail: alertEmail
  }
}

module storage 'modules/storage.bicep' = {
  name: 'storage'
  scope: group
  params: {
    token: token
    location: location
    tags: tags
    operatorPrincipalId: operatorPrincipalId
    operatorPrincipalType: operatorPrincipalType
  }
}

module redis 'modules/redis.bicep' = {
  name: 'redis'
  scope: group
  params: {
    token: token
    location: location
    tags: tags
    skuName: redisSku
    principalId: storage.outputs.identityPrincipalId
    operatorPrincipalId: operatorPrincipalId
  }
}

module app 'modules/app.bicep' = {
  name: 'app'
  scope: group
  params: {
    token: token
    location: location
    tags: tags
    identityName: storage.outputs.identityName
    storageName: storage.outputs.storageName
    deploymentContainer: storage.outputs.deploymentContainer
    eventQueue: storage.outputs.eventQueue
    insightsName: monitoring.outputs.insightsName
    redisHostName: redis.outputs.hostName
    vastAccessKey: vastAccessKey
    vastSecretKey: vastSecretKey
    subnetId: subnetId
    pythonVersion: pythonVersion
    instanceMemoryMB: instanceMemoryMB
    maximumInstanceCount: maximumInstanceCount
    deadLetterContainer: deadLetterContainer
    operatorPrincipalId: operatorPrincipalId
    operatorPrincipalType: operatorPrincipalType
  }
}

module data 'modules/data.bicep' = {
  name: 'fedplane-data-${token}'
  scope: resourceGroup(dataAccountResourceGroup)
  params: {
    token: token
    tags: tags
    accountName: dataAccountName
    container: dataContainer
    principalId: storage.outputs.identityPrincipalId
    operatorPrincipalId: operatorPrincipalId
    operatorPrincipalType: operatorPrincipalType
    deadLetterContainer: deadLetterContainer
  }
}

module delivery 'modules/delivery.bicep' = {
  name: 'delivery'
  scope: group
  params: {
    storageName: storage.outputs.storageName
    topicPrincipalId: data.outputs.topicPrincipalId
  }
}

// Only after the topic's identity may write: creation proves it.
module subscriptions 'modules/subscription.bicep' = {
  name: 'fedplane-subscription-${token}'
  scope: resourceGroup(dataAccountResourceGroup)
  params: {
    topicName: data.outputs.topicName
    container: dataContainer
    storageId: delivery.outputs.storageId
    accountId: data.outputs.accountId
    eventQueue: storage.outputs.eventQueue
    deadLetterContainer: deadLetterContainer
  }
}

module undelivered 'modules/undelivered.bicep' = {
  name: 'undelivered'
  scope: group
  params: {
    topicId: data.outputs.topicId
    actionGroupId: monitoring.outputs.actionGroupId
    namePrefix: 'fedplane-${environmentName}'
    tags: tags
  }
}

// Made from federation/metrics.py by `make docs`.
module alerts 'monitor/alerts.json' = {
  name: 'alerts'
  scope: group
  params: {
    workspaceId: monitoring.outputs.workspaceId
    actionGroupId: monitoring.outputs.actionGroupId
    location: location
    namePrefix: 'fedplane-${environmentName}'
  }
}

output AZURE_RESOURCE_GROUP string = group.name
output FUNCTION_APP_NAME string = app.outputs.name
output FUNCTION_APP_URL string = app.outputs.url
output REDIS_URL string = 'rediss://${redis.outputs.hostName}:10000'
output EVENT_QUEUE_URL string = '${storage.outputs.queueEndpoint}${storage.outputs.eventQueue}'
output DEAD_LETTER_CONTAINER string = deadLetterContainer
output KEY_VAULT_NAME string = app.outputs.vaultName
