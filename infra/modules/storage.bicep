// The app's identity and its own storage: deployment package, host locks, queues. No keys.
param token string
param location string
param tags object
param operatorPrincipalId string
param operatorPrincipalType string

var eventQueueName = 'fedplane-events'
var queueNames = [eventQueueName, 'fedplane-doorbell', 'fedplane-reconcile']
var containerNames = ['deployment']

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: 'id-${token}'
  location: location
  tags: tags
}

resource storage 'Microsoft.Storage/storageAccounts@2023-05-01' = {
  name: 'st${token}'
  location: location
  tags: tags
  sku: { name: 'Standard_ZRS' }
  kind: 'StorageV2'
  properties: {
    allowSharedKeyAccess: false
    allowBlobPublicAccess: false
    minimumTlsVersion: 'TLS1_2'
    supportsHttpsTrafficOnly: true
  }

  resource blobs 'blobServices' = {
    name: 'default'

    resource containers 'containers' = [for name in containerNames: {
      name: name
    }]
  }

  resource queues 'queueServices' = {
    name: 'default'

    resource each 'queues' = [for name in queueNames: {
      name: name
    }]
  }
}

// Blob Data Owner (locks of the host), Queue Data Contributor, Table Data Contributor.
var roleIds = ['b7e6dc6d-f1e8-4753-8033-0f276bb0955b', '974c5e8b-45b9-4653-ba55-5f855dd0fb88', '0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3']

resource roles 'Microsoft.Authorization/roleAssignments@2022-04-01' = [for roleId in roleIds: {
  name: guid(storage.id, identity.id, roleId)
  scope: storage
  properties: {
    principalId: identity.properties.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roleId)
  }
}]

// Storage Queue Data Reader: `fedplane doctor` asks whether the queue of events is there.
resource operatorReadsQueues 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(operatorPrincipalId)) {
  name: guid(storage.id, operatorPrincipalId, 'queues')
  scope: storage
  properties: {
    principalId: operatorPrincipalId
    principalType: operatorPrincipalType
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', '19e7f393-937e-4f77-808e-94535e297925')
  }
}

output identityName string = identity.name
output identityPrincipalId string = identity.properties.principalId
output storageName string = storage.name
output deploymentContainer string = 'deployment'
output eventQueue string = eventQueueName
output queueEndpoint string = storage.properties.primaryEndpoints.queue
